"""From a cell's graph to machine code: lower, derive, schedule, print."""
