"""Moving sessions from one store to another, while both are in use.

```python
configure(session_store=MovingStore("redis://127.0.0.1/0", "postgresql+asyncpg://shop@db/shop"))
```

The application runs over both: what a request asks for and the old store has is moved before it goes on. `migrate`,
which `server-session migrate` calls, moves the rest meanwhile. docs/moving-stores.md has the steps.
"""

from server_session.migration._all import Migrated, migrate
from server_session.migration._moving import MovingStore

__all__ = ["Migrated", "MovingStore", "migrate"]
