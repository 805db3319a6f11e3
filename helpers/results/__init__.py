"""What came out: scores of attempts, runs side by side in the columns of a table, statistics, tables and figures.

``scoring.py`` counts one run, ``runs.py`` reads run directories and says which may be compared, ``tables.py`` computes
the cells, ``findings.py`` what the figures draw and what they say, ``figures.py`` draws, ``explorer.py`` shows attempts
problem by problem. Nothing here loads a model; figures are imported when asked for.
"""

from .runs import (
    ACTIONS,
    AGENT,
    BANK,
    TITLES,
    TRAINING,
    ForeignResults,
    RunDir,
    collect,
    columns,
    read_foreign,
    read_run,
    slim,
)

__all__ = [
    "ACTIONS",
    "AGENT",
    "BANK",
    "TITLES",
    "TRAINING",
    "ForeignResults",
    "RunDir",
    "collect",
    "columns",
    "explorer",
    "figures",
    "findings",
    "read_foreign",
    "read_run",
    "scoring",
    "slim",
    "statistics",
    "tables",
]
