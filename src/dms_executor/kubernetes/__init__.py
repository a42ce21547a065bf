"""The engine `kubernetes`: a pod for each execution, in a cluster that exists."""

from .engine import KubernetesEngine
from .spec import KubernetesAllowed, KubernetesParams, KubernetesSettings, KubernetesSpec

__all__ = ["KubernetesAllowed", "KubernetesEngine", "KubernetesParams", "KubernetesSettings", "KubernetesSpec"]
