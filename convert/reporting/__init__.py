"""What a run came to: tables for a person, and its account of hosts.

| file | what it knows |
| --- | --- |
| `outcome` | what a conversion came to |
| `run_log` | what a run asked its hosts: tables, and JSON in `_ledger/runs/` |
| `tables` | plans, outcomes and accounts as tables |
"""
