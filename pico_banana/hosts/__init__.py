"""How a host is treated: which addresses may be asked, how often, and what came of it.

| file | what it knows |
| --- | --- |
| `guard` | which addresses may be asked |
| `connections` | aiohttp's connections, to those addresses alone |
| `answers` | leases, answers, and what an answer says of its host |
| `bound` | one host's open connections: who holds which, and who must give one back |
| `crowd` | how many it takes at once, where it refuses some beside good answers |
| `rate` | how often it is asked: halved when it asks for less, and slowly back |
| `breaker` | its troubles, told from an image's own: down, denying, odd |
| `pace` | all of that, kept together |
| `traffic` | what each host was asked, and what came of it |
| `budgets` | the budgets of all hosts, in one process |
| `scratch` | a process' folder for its sockets, swept where it was killed |
| `leases` | the budgets, shared by all processes of a run, on one machine or many |
"""
