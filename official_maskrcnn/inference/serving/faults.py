"""What is wrong with a request, in words and as a status."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi.responses import JSONResponse


class RequestFault(Exception):
    """A request that is refused."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        """Says why.

        Args:
          status: of HTTP; 4xx where the client can do something about it, 503 where it is to come
            again later.
          message: what is wrong, and what to do.
          headers: of the answer.
        """
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {**({"Retry-After": "1"} if status == 503 else {}), **(headers or {})}

    def response(self) -> "JSONResponse":
        """The answer, in the form that TensorFlow Serving gives its own in."""
        from fastapi.responses import JSONResponse  # Azure's server, for `score`, may not have it

        return JSONResponse({"error": self.message}, self.status, self.headers)
