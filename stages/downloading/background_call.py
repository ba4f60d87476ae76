"""A call in the background of a stage's own process."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundCall:
    """A call that runs on a thread of its own. An interrupted process does not wait for it."""

    def __init__(self, function: Callable[[], None]) -> None:
        """Begins the call."""
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="background call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001  # `wait` raises it
            self._error = error

    def wait(self) -> None:
        """Waits for the end of the call. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
