"""An object store in an S3 bucket."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lens_pipeline.core import postgres
from lens_pipeline.errors import DerivativeError, SourceMissing, SourceRefused, StoreUnavailable
from lens_pipeline.storage.object_store import (
    CACHE_REVALIDATE,
    MAX_OBJECT_BYTES,
    Buffer,
    Fetched,
    NoSuchBucket,
    ObjectInfo,
    ObjectReader,
    ObjectReplaced,
    ObjectStore,
    StoreReadOnly,
    StoreRefused,
    WrongCredentials,
    read_check,
    save_stream,
    validate_key,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from botocore.response import StreamingBody

# The deadline is checked for each chunk.
S3_CHUNK_BYTES = 64 * 1024
# S3 takes 5 GiB in one PUT, but a part is cheaper to send again.
MULTIPART_BYTES = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PART_THREADS = 2
# For eight threads with PART_THREADS uploads, twice.
POOL_CONNECTIONS = 32
CONNECT_SECONDS = 5
READ_SECONDS = 20
# For web requests: a hanging store would take all their threads.
AWAITED_SECONDS = 3
AWAITED_ATTEMPTS = 2
S3_ATTEMPTS = 3
_WRONG_CREDENTIALS = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
# Answers to HEAD have bare numbers.
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"}
_WRITE_RIGHTS = "s3:PutObject and s3:DeleteObject"
_LACKING: dict[str, tuple[type[DerivativeError], str]] = {
    "read": (SourceRefused, "s3:GetObject"),
    "write": (StoreReadOnly, _WRITE_RIGHTS),
    "delete": (StoreReadOnly, _WRITE_RIGHTS),
    "list": (StoreRefused, "s3:ListBucket"),
}
# Of Supabase Storage.
_ADDRESS = re.compile("/storage/v1/object/(?:public|sign|authenticated)/([^/]+)/(.+)")
_NOT_NOW = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "408", "429"}


class S3Store(ObjectStore):
    """Objects in S3 or a compatible server. Credentials and region come from boto3's chain."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        *,
        attempts: int = S3_ATTEMPTS,
        multipart_bytes: int = MULTIPART_BYTES,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._attempts = attempts
        self._multipart_bytes = multipart_bytes
        self._part_bytes = part_bytes
        self._bucket = bucket
        self._prefix = f"{validate_key(prefix)}/" if prefix else ""
        self._endpoint = endpoint
        self._lock = threading.Lock()
        # By process and `postgres.has_deadline()`.
        self._made: dict[tuple[int, bool], Any] = {}
        self._bucket_seen = False

    def write(
        self,
        key: str,
        body: bytes | Path,
        *,
        content_type: str,
        cache_control: str = CACHE_REVALIDATE,
    ) -> None:
        name = self._name(key)
        headers = {"ContentType": content_type, "CacheControl": cache_control}
        with self._errors("write", key):
            if isinstance(body, bytes):
                self._client().put_object(Bucket=self._bucket, Key=name, Body=body, **headers)
            else:
                self._upload(name, body, headers)

    def read_into(
        self,
        key: str,
        path: Path,
        *,
        max_bytes: int = MAX_OBJECT_BYTES,
        deadline_seconds: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Fetched:
        with self._errors("read", key):
            answer = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
            size, body = answer["ContentLength"], answer["Body"]
            check = read_check(key, size, deadline_seconds, cancelled)
            with body:
                body.set_socket_timeout(min(deadline_seconds or READ_SECONDS, READ_SECONDS))
                chunks = body.iter_chunks(S3_CHUNK_BYTES)
                return save_stream(
                    chunks, path, max_bytes=max_bytes, expected_bytes=size, check=check
                )

    def open(self, key: str) -> ObjectReader:
        return _S3Reader(self._require(key), self._body)

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors("look up", key):
                answer = self._client().head_object(Bucket=self._bucket, Key=self._name(key))
        except SourceMissing:
            self._require_bucket()
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], _etag(answer))

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client().delete_object(Bucket=self._bucket, Key=self._name(key))

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._name(key)}"

    def key_of(self, url: str) -> str | None:
        try:
            path, host = urlsplit(url).path, urlsplit(url).hostname
        except ValueError:
            return None
        found = _ADDRESS.fullmatch(path)
        own = urlsplit(self._endpoint or "").hostname
        if found is None or own is None or _project(host) != _project(own):
            return None
        bucket, name = map(unquote, found.groups())
        is_ours = bucket == self._bucket and name.startswith(self._prefix)
        return name.removeprefix(self._prefix) if is_ours else None

    def sweep(self, older_than_seconds: float, own: re.Pattern[str]) -> int:
        """Abort old multipart uploads, which take hidden room."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        removed = 0
        with self._errors("sweep", self._prefix):
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    key = upload["Key"].removeprefix(self._prefix)
                    if upload["Initiated"] < limit and own.fullmatch(key):
                        which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self._client().abort_multipart_upload(Bucket=self._bucket, **which)
                        removed += 1
        return removed

    def ping(self) -> None:
        with self._errors("open", ""):
            self._client().head_bucket(Bucket=self._bucket)

    def _name(self, key: str) -> str:
        return self._prefix + validate_key(key)

    def _body(self, info: ObjectInfo, start: int, end: int) -> "StreamingBody":
        """`start` to before `end`. Raises ObjectReplaced."""
        from botocore.exceptions import ClientError

        with self._errors("read", info.key):
            try:
                answer = self._client().get_object(
                    Bucket=self._bucket,
                    Key=self._name(info.key),
                    Range=f"bytes={start}-{end - 1}",
                    IfMatch=f'"{info.etag}"',
                )
            except ClientError as error:
                if _status(error) not in {404, 412, 416}:
                    raise
                raise ObjectReplaced(f"{info.key} was replaced while it was read") from None
        body = answer["Body"]
        # Some servers ignore conditions or ranges.
        if _etag(answer) != info.etag or answer["ContentLength"] != end - start:
            body.close()
            raise ObjectReplaced(f"{info.key} was replaced while it was read")
        return body

    def _upload(self, name: str, path: Path, headers: dict[str, str]) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=self._multipart_bytes,
            multipart_chunksize=self._part_bytes,
            max_concurrency=PART_THREADS,
        )
        client = self._client()
        with path.open("rb") as file:
            client.upload_fileobj(file, self._bucket, name, ExtraArgs=headers, Config=config)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    # Some tools mark empty folders so.
                    if entry["Key"].endswith("/"):
                        continue
                    key = entry["Key"].removeprefix(self._prefix)
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"], _etag(entry))

    def _require_bucket(self) -> None:
        """Raise NoSuchBucket: a wrong LENS_STORE_URL would look like an empty store."""
        if not self._bucket_seen:
            self.ping()
            self._bucket_seen = True

    def _client(self) -> Any:
        """A fork must not share connections."""
        key = os.getpid(), postgres.has_deadline()
        with self._lock:
            if key not in self._made:
                self._made[key] = self._connect(is_awaited=key[1])
            return self._made[key]

    def _connect(self, *, is_awaited: bool) -> Any:
        # The import takes 0.6 s.
        import boto3.session
        from botocore.config import Config

        session = boto3.session.Session()
        attempts = AWAITED_ATTEMPTS if is_awaited else self._attempts
        return session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=AWAITED_SECONDS if is_awaited else CONNECT_SECONDS,
                read_timeout=AWAITED_SECONDS if is_awaited else READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=POOL_CONNECTIONS,
                # Some servers do not know boto3's checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Other servers rarely have a host for each bucket.
                s3={"addressing_style": "path" if self._endpoint else "auto"},
            ),
        )

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        # Causes are dropped: botocore's texts may hold keys and signed URLs.
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            raise self._named_error(action, key, error) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise WrongCredentials(
                f"no credentials for s3://{self._bucket}:"
                " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"cannot {action} s3://{self._bucket}/{self._prefix}{key}:"
                f" {type(error).__name__}: is {self._server} up and reachable?"
            ) from None

    @property
    def _server(self) -> str:
        return urlsplit(self._endpoint).hostname or "" if self._endpoint else "Amazon S3"

    def _named_error(self, action: str, key: str, error: "ClientError") -> DerivativeError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = _status(error)
        reason = f"cannot {action} s3://{self._bucket}/{self._prefix}{key}: {code or status}"
        if status >= 500 or code in _NOT_NOW:
            return StoreUnavailable(reason)
        if code == "NoSuchBucket" or (status == 404 and action not in {"read", "look up"}):
            return NoSuchBucket(f"{reason}: create the bucket, or correct LENS_STORE_URL")
        if status == 404:
            return SourceMissing(f"{key}: no such object")
        if code in _WRONG_CREDENTIALS:
            return WrongCredentials(
                f"{reason}: correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION"
            )
        if code in _DENIED:
            kind, rights = _LACKING.get(action, (WrongCredentials, "this"))
            return kind(f"{reason}: check the credentials, allow them {rights}")
        return StoreRefused(reason)


class _S3Reader(ObjectReader):
    """Requests the rest again if the server hangs up, as some do on slow readers."""

    def __init__(
        self, info: ObjectInfo, body: Callable[[ObjectInfo, int, int], "StreamingBody"]
    ) -> None:
        super().__init__(info)
        self._request = body
        self._body: StreamingBody | None = None

    def select(self, start: int, end: int) -> None:
        super().select(start, end)
        self.close()
        if self.left:
            self._body = self._request(self.info, start, end)

    def read(self, most_bytes: int) -> Buffer:
        from botocore.exceptions import BotoCoreError

        if not self.left:
            return b""
        reason = "its server hangs up"
        for _ in range(S3_ATTEMPTS):
            if self._body is None:
                self._body = self._request(self.info, self._place, self._end)
            try:
                found = self._body.read(min(most_bytes, self.left))
            except (BotoCoreError, OSError) as error:
                reason = type(error).__name__
                found = b""
            if found:
                self._place += len(found)
                return found
            self.close()
        raise StoreUnavailable(f"cannot read {self.info.key}: {reason}")

    def close(self) -> None:
        if self._body is not None:
            # A partly read connection cannot be used again.
            self._body.close()
            self._body = None


def _etag(answer: Mapping[str, Any]) -> str:
    return answer["ETag"].strip('"')


def _status(error: "ClientError") -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _project(host: str | None) -> str | None:
    """Supabase has two hosts for the storage of each project."""
    return host and host.replace(".storage.supabase.", ".supabase.")
