"""Files, ledgers and card of an output, and whether they agree.

| file | what it knows |
| --- | --- |
| `store` | an output in a folder or on any fsspec file system, whole files only |
| `ledger` | what is planned, finished, missing |
| `lock` | who may write to a local output |
| `finished` | the ledgers of a config, put together |
| `parquet_file` | examples → row groups and pages |
| `disk_budget` | the Parquet bytes on disk, bounded over all writers |
| `card_body` | what the card says |
| `card` | the card, from plans and ledgers alone: its front matter |
| `loading` | Python code that loads an output |
| `verify` | an output against its ledgers |
"""
