"""How a host is treated: which addresses may be asked, how often, and what came of it.

| file | what it knows |
| --- | --- |
| `guard` | which addresses may be asked |
| `connections` | aiohttp's connections, to those addresses alone |
| `pace` | one host's pace: its budget, halved when it asks for less, paused, broken off, given up |
| `traffic` | what each host was asked, and what came of it |
| `budgets` | the budgets of all hosts, in one process |
| `scratch` | a process' folder for its sockets, swept where it was killed |
| `leases` | the budgets, shared by all processes of a run, on one machine or many |
"""
