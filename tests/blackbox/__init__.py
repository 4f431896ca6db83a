"""What the tests of the whole program stand on: folders compared, daemons driven, stores read.

Nothing here imports vfsd. The tests above know only what a user knows: the commands, their exit codes and
JSON, real files, and the programs that read them. What is found in a store is found through its format.
"""

import pytest

# So that a failed assertion in them says what it compared, as one in a test does.
pytest.register_assert_rewrite(
    *(f"blackbox.{name}" for name in ("acts", "daemons", "layers", "pictures", "stores", "trees"))
)
