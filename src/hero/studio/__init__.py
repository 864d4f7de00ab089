"""The studio: one page for all runs of a folder, from a wish to a LoRA; a process that never imports torch.

It reads run folders as anybody does, and has the ordinary command line do everything else in processes of their own
(`worker`), so that what runs survives the page, the browser and the studio. docs/studio.md says how to use it.
"""
