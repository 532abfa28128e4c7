"""Downloads of strangers' URLs into files: checked addresses, one deadline, a cap on bytes.

What a URL may lead to is decided on the addresses its host resolves to, and the connection goes to
exactly the address that was checked, so a name that resolves differently the next time gains
nothing. Redirects go through the same door. There are no proxies, no cookies and no credentials.
"""

import contextvars
import email.utils
import ipaddress
import queue
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpcore
import tenacity
