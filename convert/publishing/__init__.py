"""The Hub: what a repository holds, and how an output gets there.

| file | what it knows |
| --- | --- |
| `repository` | one repository of the Hub: what it holds, uploads, commits; each tried again |
| `publication` | shards → the repository, in batches that can be loaded; what is there already |
| `publish` | a finished output → the repository; the card of what `push_to_hub` pushed |
"""
