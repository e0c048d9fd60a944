"""Open Images: a photo's URL → its ImageID and attribution, and its bytes in a tar.

| file | what it knows |
| --- | --- |
| `make_index` | Open Images' CSV → the index |
| `index` | a photo's URL → ImageID and attribution, by the index |
| `packed` | any part of a gzip-packed file, by seek points; what a damaged one still gives |
| `tar_index` | a tar → its index: photos, seek points, what is odd about it |
| `tars` | an ImageID → its bytes in a tar |
| `turns` | the readers of one tar, in the order of its bytes |
"""
