"""The stages of visual localization, one module each; they meet in files of hloc's formats."""
