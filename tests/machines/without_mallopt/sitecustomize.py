"""Hide glibc's mallopt from ctypes, as if the C library had none. Python runs this file at startup."""

import ctypes


class WithoutMallopt(ctypes.CDLL):
    def __getattr__(self, name: str) -> object:
        if name == "mallopt":
            raise AttributeError(name)
        return super().__getattr__(name)


ctypes.CDLL = WithoutMallopt  # type: ignore[misc]
