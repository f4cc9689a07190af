"""Retrieval on the page: query frames of an action, and their nearest frames by each shown run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.alignment import phase_name
from tokenreel.evaluate.methods.retrieval import Neighbour, nearest_frames
from tokenreel.evaluate.report.data.gather import Group, ReportConfig, RunPage
from tokenreel.evaluate.report.page.html import Html, join, scroll, tag
from tokenreel.evaluate.report.pictures.frames import Pictures
from tokenreel.evaluate.report.sections.alignment import MARKS, run_title
from tokenreel.evaluate.report.sections.explore import explore_line


@dataclass(frozen=True, eq=False)
class Query:
    """A query frame and its neighbours by each run."""

    clip: EmbeddedClip
    frame: int
    found: tuple[tuple[RunPage, tuple[Neighbour, ...]], ...]


@dataclass(frozen=True, eq=False)
class RetrievedGroup:
    """The queries of a group."""

    group: Group
    queries: tuple[Query, ...]

    def want(self, pictures: Pictures) -> None:
        """Register the frames of the strips."""
        for query in self.queries:
            pictures.want(query.clip, [query.frame])
            for _, neighbours in query.found:
                for found in neighbours:
                    pictures.want(found.clip, [found.frame])

    def render(self, pictures: Pictures) -> Html:
        """The article of the group."""
        strips = [
            join(
                self._strip(query, pictures),
                explore_line(query.found[0][0], query.clip.clip_id) if query.found else None,
            )
            for query in self.queries
        ]
        return tag("article", tag("h3", self.group.title), *strips)

    def _strip(self, query: Query, pictures: Pictures) -> Html:
        count = max(len(neighbours) for _, neighbours in query.found)
        titles = ("Recipe", "Query", *(f"{rank}." for rank in range(1, count + 1)))
        head = tag("tr", *(tag("th", title, scope="col") for title in titles))
        rows = []
        for place, (run, neighbours) in enumerate(query.found):
            own = tag("td", _own(query, pictures), rowspan=len(query.found), class_="query")
            cells = [tag("td", _cell(found, pictures)) for found in neighbours]
            title = tag("th", run_title(run), tag("small", _tally(neighbours)), scope="row")
            rows.append(tag("tr", title, own if place == 0 else None, *cells))
        table = tag("table", tag("thead", head), tag("tbody", *rows), class_="strip")
        return scroll(table, f"Frames nearest to {query.clip.clip_id}, frame {query.frame}")


def retrieve_group(group: Group, runs: Sequence[RunPage], config: ReportConfig) -> RetrievedGroup:
    """Queries spread over the group: the i-th in the i-th clip, further on in each.

    A query is a labelled frame where the clip has one.  Every run searches the group's other clips.
    """
    clips = group.clips(runs[0])
    queries = []
    for place in range(min(config.queries, len(clips))):
        clip = clips[place]
        frames = np.flatnonzero(clip.labels >= 0)
        frames = frames if len(frames) else np.arange(clip.num_frames)
        frame = int(frames[round((place + 1) / (config.queries + 1) * (len(frames) - 1))])
        found = []
        for run in runs:
            own = run.clip(clip.clip_id)
            if own is None or frame >= own.num_frames:
                continue
            found.append((run, tuple(nearest_frames(own, frame, group.clips(run), k=config.k))))
        queries.append(Query(clip, frame, tuple(found)))
    return RetrievedGroup(group, tuple(queries))


def _own(query: Query, pictures: Pictures) -> Html:
    name = phase_name(query.clip, query.frame) or "no label"
    seconds = query.clip.moment(query.frame)
    words = f"query, {query.clip.clip_id} at {seconds}, {name}"
    return join(
        pictures.frame(query.clip, query.frame, words=words),
        tag("span", name, class_="phase"),
        tag("small", f"{query.clip.clip_id}, {seconds}"),
    )


def _cell(found: Neighbour, pictures: Pictures) -> Html:
    verdict, name = found.verdict, phase_name(found.clip, found.frame) or "no label"
    seconds = found.clip.moment(found.frame)
    words = f"{verdict}: {found.clip.clip_id} at {seconds}, {name}"
    return join(
        pictures.frame(found.clip, found.frame, words=words),
        tag("span", f"{MARKS[found.is_right]} {name}", class_=f"phase {verdict}", title=verdict),
        tag("small", f"{found.clip.clip_id}, {seconds}, distance {found.distance:.3f}"),
    )


def _tally(neighbours: Sequence[Neighbour]) -> str:
    known = [found.is_right for found in neighbours if found.is_right is not None]
    return f"{sum(known)} of {len(known)} right" if known else "unlabelled"
