"""The format of a store on disk: identity, layout, records and files of a clip, and their index."""
