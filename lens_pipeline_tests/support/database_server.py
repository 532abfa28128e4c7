"""A database server and a broker, as the tests of the doctor know them."""

from dataclasses import dataclass

import psycopg2

from lens_pipeline.core.endpoints import Endpoints


@dataclass(frozen=True)
class Servers:
    """A database server with two finished databases, and a broker."""

    endpoints: Endpoints
    admin: dict[str, str]

    @property
    def password(self) -> str:
        return self.endpoints.database_url.split(":")[2].split("@")[0]

    def url(self, database: str, user: str = "lens", password: str | None = None) -> str:
        port = self.admin["port"]
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """As the server's administrator."""
        connection = psycopg2.connect(self.url(database, "postgres", self.admin["password"]))
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()
