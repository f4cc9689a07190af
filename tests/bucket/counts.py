"""The requests that read a bucket, counted."""

from tokenreel.cache.bucket.objects import Bucket


def requests_of(monkeypatch) -> list[tuple[str, int]]:
    """Key and bytes of every read of an object from now on."""
    seen, get, ranges = [], Bucket.get, Bucket.get_ranges

    def whole(self, key):
        data = get(self, key)
        seen.append((key, len(data)))
        return data

    def parts(self, key, asked, **how):
        seen.append((key, sum(stop - start for start, stop in asked)))
        return ranges(self, key, asked, **how)

    monkeypatch.setattr(Bucket, "get", whole)
    monkeypatch.setattr(Bucket, "get_ranges", parts)
    return seen
