"""Offloading: what lies on which tier, what that costs, and running it.

`policy` is the cost model (numbers only), `search` finds its optimum. `tiers`, `caches` and `block` obey a policy,
`packed` stores in four bits, `roads` move, `model_files` hold a model. `limited` measures and runs under a real memory
limit, `curve` puts model and clock side by side. `readers` divides one read. `elastic` and `shards` choose fidelities
for a time budget; `elastic_plan`, `elastic_file`, `elastic_pipeline` and `elastic_run` obey that from a file.
"""

from edgeinfer.memory.offload.elastic import Budget, exhaustive, plan
from edgeinfer.memory.offload.policy import Cost, Machine, Policy, Workload, cost, fits
from edgeinfer.memory.offload.search import best_shares, on_a_grid, search

__all__ = [
    "Budget",
    "Cost",
    "Machine",
    "Policy",
    "Workload",
    "best_shares",
    "cost",
    "exhaustive",
    "fits",
    "on_a_grid",
    "plan",
    "search",
]
