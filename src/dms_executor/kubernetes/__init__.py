"""The engine `kubernetes`: a pod for each execution, in a cluster that exists."""

from .engine import KubernetesEngine
from .spec import KubernetesParams, KubernetesSettings, KubernetesSpec

__all__ = ["KubernetesEngine", "KubernetesParams", "KubernetesSettings", "KubernetesSpec"]
