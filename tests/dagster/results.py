"""What a run left, looked up by name."""

import dagster as dg


def evaluation(result: dg.ExecuteInProcessResult, check: str) -> dg.AssetCheckEvaluation:
    """The one evaluation of `check` in this run; ValueError when there is none or several."""
    (found,) = (e for e in result.get_asset_check_evaluations() if e.check_name == check)
    return found
