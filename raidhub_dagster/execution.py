"""Where the steps of a run are executed, and how large their pods are on a cluster.

The instance decides: with `K8sRunLauncher` in its dagster.yaml each step is a Job of the cluster,
so that partitions spread over its nodes; without it, as on one machine, the steps stay in the run's
process or in processes beside it. Jobs of short steps name `in_process_executor` instead: a pod for
each step would take longer than the step.
"""

from typing import Any

import dagster as dg

_LAUNCHER = "K8sRunLauncher"


def pod(*, cpu: str, memory: str) -> dict[str, Any]:
    """Tags for pods of this size, in Kubernetes' quantities: an asset's steps, or a job's runs.

    Requested and limited alike, so that a node with many of them does not evict one.
    """
    resources = {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"cpu": cpu, "memory": memory},
    }
    return {"dagster-k8s/config": {"container_config": {"resources": resources}}}


# Reads, parses or compares reports all the time on one core, some hundred MB at a time.
HEAVY_STEP = pod(cpu="1", memory="2Gi")
# A model is trained from all features of some weeks in memory.
TRAINING_STEP = pod(cpu="2", memory="4Gi")
# The run of such steps only waits for their pods.
WAITING_RUN = pod(cpu="250m", memory="512Mi")

# Pools bound the steps over all runs; this is only against a run of a hundred steps without any.
_MOST_PODS = 8
_CONFIG = {
    "max_concurrent": dg.Field(
        dg.Noneable(dg.Int),
        default_value=None,
        description="Steps of the run at a time. Without it: 8 pods on a cluster, else as many "
        "processes as there are cores.",
    )
}


@dg.executor(name="pods_or_in_process", config_schema=_CONFIG)
def pods_or_in_process(context: dg.InitExecutorContext) -> dg.Executor:
    """For jobs of heavy steps: pods on a cluster, else the process of the run."""
    if _is_on_cluster(context):
        return _pods(context)
    config: dict[str, Any] = {"retries": {"enabled": {}}}
    return _created(dg.in_process_executor, context, config)


@dg.executor(
    name="pods_or_processes",
    config_schema=_CONFIG,
    requirements=dg.multiple_process_executor_requirements(),
)
def pods_or_processes(context: dg.InitExecutorContext) -> dg.Executor:
    """For runs of assets that a person or a backfill chose: pods on a cluster, else processes."""
    if _is_on_cluster(context):
        return _pods(context)
    config = {"retries": {"enabled": {}}, **context.executor_config}
    return _created(dg.multiprocess_executor, context, config)


def _is_on_cluster(context: dg.InitExecutorContext) -> bool:
    # By name: the class would cost every process of one machine 1 s and 49 MB.
    return type(context.instance.run_launcher).__name__ == _LAUNCHER


def _pods(context: dg.InitExecutorContext) -> dg.Executor:
    from dagster_k8s import k8s_job_executor

    config = {
        "retries": {"enabled": {}},
        "max_concurrent": context.executor_config["max_concurrent"] or _MOST_PODS,
        "per_step_k8s_config": {},
        # The Jobs of the steps go with the pod of their run, however that ends.
        "enable_owner_references": True,
    }
    return _created(k8s_job_executor, context, config)


def _created(
    definition: dg.ExecutorDefinition, context: dg.InitExecutorContext, config: dict[str, Any]
) -> dg.Executor:
    create = definition.executor_creation_fn
    assert create is not None  # noqa: S101  only a definition without code has none
    return create(
        dg.InitExecutorContext(
            job=context.job,
            executor_def=definition,
            executor_config=config,
            instance=context.instance,
        )
    )
