import numpy as np
import pytest
from skimage import data

from identitydp_jax.data.detection import Detector
from identitydp_jax.data.second_detector import SecondDetector

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def second():
    return SecondDetector()


def test_both_detectors_see_the_same_face(second):
    photo = data.astronaut()[:300, 100:400]
    (box,), (points,) = second.detect(photo).boxes, second.detect(photo).points
    first = Detector().detect(photo)
    np.testing.assert_allclose(box, first.boxes[0], atol=25)
    np.testing.assert_allclose(points, first.points[0], atol=8)


@pytest.mark.parametrize("picture", [data.coffee(), np.full((1, 1, 3), 90, np.uint8)])
def test_no_face(second, picture):
    assert len(second.detect(picture)) == 0
