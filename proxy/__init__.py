"""The service: two processes, two folders, and what joins them. Nobody imports this package.

    cli.py            the `parity` command: reads the words, starts the rest, prints for people
    demo/             the main job in one command: engines, proxy, traffic, a planted fault, the verdict
    app.py            composition root: the only place that names concrete classes
    contract/         `parity contract`: pins what the arms are into a file, and says later what changed
    gate_client/      `parity gate`: asks a running monitor for its verdict, and exits with it
    recipe_command/   `parity recipe`: what to quantize, what is wrong with it, what it could buy; on files alone
    launch_command/   `parity launch`: the vLLM command of each arm, printed, or run and watched
    quantize_command/ `parity quantize`: from a recipe to a checkpoint with its card
    report/           what a ledger or a settings file tells without a running monitor: verdict, explain, export, plan
    supervisor/       `parity serve`: starts and restarts the relay workers and the monitor

    relay/            DATA PLANE. Moves bytes between clients and the candidate; parses no JSON; tees what is sampled
    monitor/          PARITY PLANE. Calls the arms again, scores pairs, keeps the ledger, the evidence and the verdict

    feed/             relay -> monitor over a Unix socket: bounded, never waits, counts what it drops
    exchange.py       what was seen: the only values that cross between the two planes
    sampling.py       the stable, salted coin
    metrics.py        the relay's counters, as they cross the feed

    settings_file.py  reads the one TOML file: every problem at once, each with its fix
    presets.py        the budgets that a workload stands for
    settings.py       what can be set, with bounds and units
    errors.py         the error tree

Imports go down this list and never up; relay/ and monitor/ do not know each other (import-linter, in `make test`).
A sampled request travels: relay (sampled, teed) -> feed -> monitor (order, mirror, evaluate) -> ledger -> evidence
-> verdict -> /gate and /metrics.
"""

__version__ = "0.1.0"
