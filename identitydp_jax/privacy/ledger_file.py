"""The SQLite file under the ledger: made whole, opened with care, committed to the disk."""

import contextlib
import functools
import os
import pathlib
import sqlite3
import stat
from collections.abc import Iterator

from identitydp_jax import storage
from identitydp_jax.checks import UserError

_PATIENCE = 120.0  # seconds to wait for other processes; one release takes milliseconds
_SCHEMA = """
CREATE TABLE entry (
  number INTEGER PRIMARY KEY, body BLOB NOT NULL, head BLOB NOT NULL, seal BLOB NOT NULL,
  code BLOB NOT NULL
);
CREATE TRIGGER entry_stays BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entry_remains BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entry_comes_last BEFORE INSERT ON entry
WHEN NEW.number IS NOT (SELECT COALESCE(MAX(number) + 1, 0) FROM entry)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_LOWEST = -(2**63)
_INSERT = "INSERT INTO entry VALUES (?, ?, ?, ?, ?)"


class DamagedLedger(UserError):
    """A ledger that is not as it was written, by an accident or on purpose."""


class LedgerFile:
    """An open ledger file: a table of rows (number, body, head, seal, code) that only grows.

    Whatever SQLite or the operating system refuses becomes a `UserError` of one line.

    Args:
      path: a regular file, no link, of mode 0600 or narrower.

    Raises:
      UserError: it is not, or cannot be opened.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        with _clear_errors(path):
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"ledger {path} is not a regular file: name the file itself")
            mode = stat.S_IMODE(status.st_mode)
            if mode & ~0o600:
                raise UserError(f"ledger {path} has mode {mode:04o}, wider than 0600: chmod 600 it")
            self._identity = status.st_dev, status.st_ino
            self._connection = _connect(path)

    def close(self) -> None:
        """Close the file, and undo a transaction that is not committed."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self):
        """Keep other writers out; commit to the disk, or leave no trace after an exception.

        Raises:
          UserError: also when the file of this name is another one by now.
        """
        self._check_identity()
        self._execute("BEGIN IMMEDIATE")
        try:
            self._check_schema()
            yield
            self._execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # a journal undoes it at the next start
                    self._connection.execute("ROLLBACK")

    def check(self) -> None:
        """Raise `UserError` if schema or pages are not in order; from now on read this state."""
        self._execute("BEGIN")
        self._check_schema()
        with _clear_errors(self.path):
            problem = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if problem != "ok":
            raise damage(self.path, " ".join(problem.split()))

    def rows(self, first: int | None = None) -> Iterator[tuple]:
        """Yield the rows in order, from a number on or all there are."""
        query = "SELECT number, body, head, seal, code FROM entry WHERE number >= ? ORDER BY number"
        with _clear_errors(self.path):
            rows = self._connection.execute(query, (_LOWEST if first is None else first,))
            for row in rows:  # noqa: UP028 - `yield from` would close them, maybe after the file
                yield row

    def code(self, number: int):
        """Return the code of a row as it is, None if there is none."""
        with _clear_errors(self.path):
            query = self._connection.execute("SELECT code FROM entry WHERE number = ?", (number,))
            return (query.fetchone() or (None,))[0]

    def append(self, row: tuple) -> None:
        """Add a row with the next number, within a transaction."""
        self._execute(_INSERT, row)

    def _execute(self, statement: str, values: tuple = ()) -> None:
        with _clear_errors(self.path):
            self._connection.execute(statement, values)

    def _check_identity(self) -> None:
        try:
            status = os.lstat(self.path)
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise UserError(f"ledger {self.path} was moved or replaced in use: start again")

    def _check_schema(self) -> None:
        with _clear_errors(self.path):
            found = _schema(self._connection)
        if found != _pristine():
            raise damage(self.path, "its tables or triggers are not those of a ledger")


def create(path: pathlib.Path, first: tuple) -> None:
    """Make a ledger of one row beside `path` and link it there, unless somebody was faster.

    The file has mode 0600, missing folders are readable by the owner alone. A crash leaves the
    whole ledger or none.

    Raises:
      UserError: it cannot be made.
    """
    options = {"mode": 0o600, "folder_mode": 0o700, "replace": False}  # SQLite's journal gets 0600
    with (
        _clear_errors(path),
        contextlib.suppress(FileExistsError),
        storage.beside(path, **options) as (_, unfinished),
        contextlib.closing(_connect(unfinished)) as connection,
    ):
        connection.executescript(_SCHEMA)
        connection.execute(_INSERT, first)


def damage(path: pathlib.Path, what: str) -> DamagedLedger:
    """Return the error that says what is wrong with the ledger and what to do."""
    return DamagedLedger(
        f"ledger {path} is damaged or was tampered with ({what}): release nothing, restore a copy"
    )


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None
    )
    try:
        # A rollback journal (the default): one file at rest. EXTRA syncs file, journal and folder,
        # so that what was committed survives a power cut.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _schema(connection: sqlite3.Connection) -> list[tuple]:
    return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


@functools.cache
def _pristine() -> list[tuple]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema(connection)


@contextlib.contextmanager
def _clear_errors(path: pathlib.Path):
    """Turn what SQLite and the operating system say into one line for the user."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise UserError(
                f"ledger {path} is held by another process for {_PATIENCE:.0f} s: wait for it"
            ) from None
        raise UserError(
            f"ledger {path}: {error}: check the file, its folder and the disk"
        ) from None
    except sqlite3.ProgrammingError:  # of ours, as using a closed file
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damage(path, str(error)) from None
    except OSError as error:
        raise UserError(
            f"ledger {path}: {error.strerror or type(error).__name__}: name a file in a folder that"
            " you can read and write"
        ) from None
