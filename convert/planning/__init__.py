"""Which records are taken, cut how, and what that costs; no image is touched.

| file | what it knows |
| --- | --- |
| `refill` | which finished shards are made anew, to fill their holes |
| `task` | what a shard is made of, packed for another process |
| `plan` | what is planned: shards, their lines and digests; how two plans differ |
| `sizes` | a plan → its bytes, by the sizes of some images; kept for other runs |
| `make_plan` | a config's lines → its plan |
| `estimate` | a plan → hours, by what binds |
| `coverage` | what the index knows of a config's inputs; an index of these alone |
"""
