"""FTP: clip maps aligned with the texts of four prompts, then actions of whole clips."""
