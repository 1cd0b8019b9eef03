import pytest
from fakes import FakeModel, MarkerDetector, colours


@pytest.fixture
def fake_model(monkeypatch):
    """Replace network and detector; the real ones are tested where weights may be fetched."""
    from identitydp_jax.anonymize import batch, faces

    monkeypatch.setattr(faces, "anonymize_faces", colours)
    monkeypatch.setattr(faces, "load_model", lambda name="default": FakeModel(name))
    monkeypatch.setattr(batch, "Detector", MarkerDetector)
    return FakeModel()
