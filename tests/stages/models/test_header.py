"""Where the file of a model lies, by what it is called."""

import pytest

from stages.models.header import model_file


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("store/pretrain-0123", "store/pretrain-0123/model.safetensors"),
        ("s3://bucket/a.safetensors", "s3://bucket/a.safetensors"),
        ("hf://owner/name@v2", "https://huggingface.co/owner/name/resolve/v2/model.safetensors"),
    ],
)
def test_a_model_is_named_by_its_directory_its_file_or_a_hub(
    uri: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert model_file(uri) == file
