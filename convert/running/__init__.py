"""Who carries shards out, and how one is written.

| file | what it knows |
| --- | --- |
| `base` | what a runner is |
| `processes` | how worker processes are started |
| `old_shard` | what the old file of a shard that is made anew still gives |
| `shard_writer` | one shard: fetch → examples → one Parquet file, then its ledger |
| `threads` | tasks that fetch nothing, by threads of this process |
| `local` | tasks by worker processes of this machine |
| `loaded` | what these need, loaded once before they are forked |
| `on_ray` | tasks by a Ray cluster |
"""
