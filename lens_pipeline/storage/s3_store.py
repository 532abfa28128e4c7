"""An object store in an S3 bucket."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lens_pipeline.core import postgres
from lens_pipeline.errors import (
    DerivativeError,
    SourceMissing,
    SourceRefused,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from botocore.response import StreamingBody
from lens_pipeline.storage.object_store import (
    CACHE_REVALIDATE,
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
    deadline,
    save_stream,
    validate_key,
    validate_prefix,
)

# Small enough that a deadline is looked at often on a slow connection.
S3_CHUNK_BYTES = 64 * 1024
# Above it a file goes up in parts; S3 takes 5 GiB in one PUT, but a part that fails is cheaper to
# send again than the whole.
MULTIPART_BYTES = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PART_THREADS = 2
# Eight threads with PART_THREADS uploads each and as many again in reserve.
POOL_CONNECTIONS = 32
CONNECT_SECONDS = 5
READ_SECONDS = 20
# For who answers somebody: a store that hangs would take all of their threads.
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
# Bare numbers are what HEAD gives, whose answers have no body to hold a code.
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"}
_NOT_NOW = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "408", "429"}


class S3Store(ObjectStore):
    """Objects in a bucket of S3 or of a server that speaks its protocol.

    Credentials and the region come from boto3's own chain (environment, profile, instance role).
    The order of `list` is the server's: S3 sorts by key, some other servers by directory.
    """

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
        # By process and by whether somebody waits.
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
        self, key: str, path: Path, *, max_bytes: int, deadline_seconds: float
    ) -> Fetched:
        check = deadline(key, deadline_seconds)
        with self._errors("read", key):
            answer = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
            with answer["Body"]:
                answer["Body"].set_socket_timeout(min(deadline_seconds, READ_SECONDS))
                return save_stream(
                    answer["Body"].iter_chunks(S3_CHUNK_BYTES),
                    path,
                    max_bytes=max_bytes,
                    expected_bytes=answer["ContentLength"],
                    check=check,
                )

    def open(self, key: str) -> ObjectReader:
        info = self.stat(key)
        if info is None:
            raise SourceMissing(f"{key}: no such object")
        return _S3Reader(info, self._body)

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors("look up", key):
                answer = self._client().head_object(Bucket=self._bucket, Key=self._name(key))
        except SourceMissing:
            self._require_bucket()
            return None
        etag = answer["ETag"].strip('"')
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], etag)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        # Not a generator itself, so that a wrong prefix is reported by the call.
        return self._pages(validate_prefix(prefix))

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client().delete_object(Bucket=self._bucket, Key=self._name(key))

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._name(key)}"

    def sweep(self, older_than_seconds: float) -> int:
        """Abort uploads in parts that were begun so long ago; their parts cost room unseen."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        removed = 0
        with self._errors("sweep", self._prefix):
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < limit:
                        self._client().abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed

    def ping(self) -> None:
        with self._errors("open", ""):
            self._client().head_bucket(Bucket=self._bucket)

    def _name(self, key: str) -> str:
        return self._prefix + validate_key(key)

    def _body(self, info: ObjectInfo, start: int, end: int) -> "StreamingBody":
        """The bytes from `start` to before `end` of exactly this object; `start` is before `end`.

        Raises ObjectReplaced if it is there no more.
        """
        # Lazy for the reason given in `_connect`.
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
        # Not every server that speaks S3 knows conditions, or ranges.
        if answer["ETag"].strip('"') != info.etag or answer["ContentLength"] != end - start:
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
        with path.open("rb") as file:
            self._client().upload_fileobj(
                file, self._bucket, name, ExtraArgs=headers, Config=config
            )

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    # Some tools mark an empty folder by an object whose key ends in a slash.
                    if entry["Key"].endswith("/"):
                        continue
                    yield ObjectInfo(
                        entry["Key"].removeprefix(self._prefix),
                        entry["Size"],
                        entry["LastModified"],
                        entry["ETag"].strip('"'),
                    )

    def _require_bucket(self) -> None:
        """Raise NoSuchBucket if a HEAD found nothing because the whole bucket is missing.

        Otherwise a wrong LENS_STORE_URL would look like a store where everything is to be made.
        """
        if self._bucket_seen:
            return
        with self._errors("open", ""):
            self._client().head_bucket(Bucket=self._bucket)
        self._bucket_seen = True

    def _client(self) -> Any:
        """The client of this process: a fork must not share its parent's connections."""
        key = os.getpid(), postgres.is_set()
        with self._lock:
            if key not in self._made:
                self._made[key] = self._connect(is_awaited=key[1])
            return self._made[key]

    def _connect(self, *, is_awaited: bool) -> Any:
        # Imported here because it takes 0.6 s, which every command would pay, file store or not.
        import boto3.session
        from botocore.config import Config

        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=AWAITED_SECONDS if is_awaited else CONNECT_SECONDS,
                read_timeout=AWAITED_SECONDS if is_awaited else READ_SECONDS,
                retries={
                    "mode": "standard",
                    "total_max_attempts": AWAITED_ATTEMPTS if is_awaited else self._attempts,
                },
                max_pool_connections=POOL_CONNECTIONS,
                # Not every server that speaks S3 knows the checksums boto3 sends by default.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Servers other than Amazon's rarely have a host name for each bucket.
                s3={"addressing_style": "path" if self._endpoint else "auto"},
            ),
        )

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        # Lazy for the reason given in `_connect`. Causes are dropped (`from None`): the texts of
        # botocore's exceptions may hold keys and signed URLs.
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
        if code in _DENIED and action == "read":
            return SourceRefused(f"{reason}: check the credentials, allow them s3:GetObject")
        if code in _DENIED and action in {"write", "delete"}:
            return StoreReadOnly(
                f"{reason}: check the credentials, allow them s3:PutObject and s3:DeleteObject"
            )
        if code in _DENIED:
            return WrongCredentials(f"{reason}: check the credentials and what they may do")
        return StoreRefused(reason)


class _S3Reader(ObjectReader):
    """Reads a range by one request, and goes on by another one if the connection breaks.

    A server may hang up on a reader that is slow because a browser has buffered enough.
    """

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
        # Lazy for the reason given in `S3Store._connect`.
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
            # Not read to its end: the connection cannot be used again.
            self._body.close()
            self._body = None


def _status(error: "ClientError") -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
