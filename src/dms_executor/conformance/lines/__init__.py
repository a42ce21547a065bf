"""The lines, by theme. `from dms_executor.conformance.lines import *` in a test module makes them all its own."""

from __future__ import annotations

from .attached import *  # noqa: F403
from .capacity import *  # noqa: F403
from .close import *  # noqa: F403
from .commands import *  # noqa: F403
from .copies import *  # noqa: F403
from .devices import *  # noqa: F403
from .figures import *  # noqa: F403
from .identity import *  # noqa: F403
from .images import *  # noqa: F403
from .listing import *  # noqa: F403
from .logs import *  # noqa: F403
from .networks import *  # noqa: F403
from .outputs import *  # noqa: F403
from .paths import *  # noqa: F403
from .powers import *  # noqa: F403
from .processes import *  # noqa: F403
from .provision import *  # noqa: F403
from .recovery import *  # noqa: F403
from .requests import *  # noqa: F403
from .results import *  # noqa: F403
from .retention import *  # noqa: F403
from .saving import *  # noqa: F403
from .sessions import *  # noqa: F403
from .starting import *  # noqa: F403
from .stopping import *  # noqa: F403
from .timeouts import *  # noqa: F403
from .trees import *  # noqa: F403
from .waiting import *  # noqa: F403
