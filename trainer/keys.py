"""`python -m trainer.keys`: prints the page docs/job.md (job/keys.py)."""

from trainer.job.keys import page

if __name__ == "__main__":
    print(page())
