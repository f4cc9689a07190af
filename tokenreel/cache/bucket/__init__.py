"""Object stores in the place of a disk: paths on a bucket, its objects, and a cache of them."""
