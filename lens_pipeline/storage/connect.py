"""Opens the store that a URL names."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lens_pipeline.settings import SettingsError
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.storage.s3_store import S3Store


def open_store(url: str, endpoint: str | None = None) -> ObjectStore:
    """`file:///directory` or `s3://bucket/prefix`. Does not connect yet. Raises SettingsError."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        if endpoint is not None and not urlsplit(endpoint).hostname:
            raise SettingsError("LENS_S3_ENDPOINT must be a URL such as https://host/storage/v1/s3")
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint)
    raise SettingsError("LENS_STORE_URL must look like file:///directory or s3://bucket/prefix")
