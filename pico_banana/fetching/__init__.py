"""An image's bytes, in order, whatever happens.

| file | what it knows |
| --- | --- |
| `sources` | one image reference → the ordered places to try; pure |
| `links` | the addresses that a row's images have where no bytes are fetched |
| `files` | images from folders and fsspec places, and nothing outside of them |
| `folders` | the folders that were there in a run |
| `inspect` | looks into bytes: known format, whole, size in pixels |
| `http_faults` | what an exception of the HTTP client means |
| `failures` | what failed of an image, and whether it is asked for again |
| `room` | the memory of what is fetched and not yet handed over |
| `sessions` | an HTTP session of one socket for each leased connection |
| `transport` | one request to one place, with checked redirects |
| `sizes` | how large some images are, asked without fetching them |
| `prepare` | the tars that are indexed before photos are looked for in them |
| `fetcher` | the fetch engine: many images at once, tried again, bounded in bytes, in order |
"""
