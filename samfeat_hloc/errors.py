"""The one error that people see: a single line that names the file or option and the mend."""

from __future__ import annotations


class SamfeatError(Exception):
    """Something a user can put right.

    The message is one line, ``"<file or option>: what is wrong; how to mend it"``. The command
    line prints it as ``error: ...`` and exits with code 1, without a traceback.
    """
