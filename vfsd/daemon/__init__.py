"""The life of one mount: checks, start, serve, flush, stop; where its folders lie and how others find it.

One process serves one mount. It forks into the background before any thread or event loop exists, then runs
one trio loop in which the kernel's requests, the control socket and the stop paths live side by side.
Whatever is heavy to import (numpy, pyfuse3, starlette) is imported inside the functions that need it, after
the fork.

What may be touched: the state of a `Session` belongs to the trio thread; other threads get paths and numbers.
The only locks are between processes: `<state>/lock` (flock, held by the daemon for its whole life) and the
store's own. The state lock is taken after the store's and both are held until everything is closed.
"""
