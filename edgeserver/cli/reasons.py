"""From an exception to what is told of it: which failures an operator can do something about, and in which words."""

from __future__ import annotations


def reasons(error: BaseException, expected: tuple[type[Exception], ...] = ()) -> list[str] | None:
    """What went wrong, in words without a full stop, if all of it is of an expected kind; else None. Groups are looked into.

    `expected` are further errors whose text is a sentence for the operator.
    """
    from edgeserver.app.identity import IdentityError
    from edgeserver.app.listeners import ListenerError
    from edgeserver.app.wires import WireError
    from edgeserver.bridges.registration import RegistrationError
    from edgeserver.config import ConfigError
    from edgeserver.matrix.errors import MatrixError
    from edgeserver.store.database import StoreError
    from edgeserver.store.integrity import DatabaseError
    from edgeserver.store.migrations import NewerFile

    if isinstance(error, BaseExceptionGroup):
        found = [reasons(one, expected) for one in error.exceptions]
        known = [reason for each in found if each is not None for reason in each]
        return None if None in found else list(dict.fromkeys(known))
    if isinstance(error, MatrixError):
        return [error.error.rstrip(".")]
    if isinstance(error, (IdentityError, ListenerError, WireError, ConfigError, RegistrationError, StoreError, NewerFile, *expected)):
        return [str(error).rstrip(".")]
    if isinstance(error, DatabaseError):
        return [f"the database cannot be used ({error}); edgeserver check tells more"]
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return [where + error.strerror]
    return None
