import pytest
from fakes import FakeModel, MarkerDetector, paint, release, targets


@pytest.fixture
def fake_model(monkeypatch):
    """Replace network and detector; the real ones are tested where weights may be fetched."""
    from identitydp_jax.anonymize import batch, faces

    monkeypatch.setattr(faces, "release_faces", release)
    monkeypatch.setattr(faces, "target_identities", targets)
    monkeypatch.setattr(faces, "draw_faces", paint)
    monkeypatch.setattr(faces, "load_model", lambda name="default": FakeModel(name))
    monkeypatch.setattr(batch, "Detector", MarkerDetector)
    monkeypatch.setattr(batch, "check_answers", lambda mechanism, dimension: None)
    return FakeModel()
