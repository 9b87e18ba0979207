"""`python -m minibert.laws` prints the page of formulas, laws and known mistakes."""

from minibert.laws import proofs
from minibert.laws.pages import formulas_page

if __name__ == "__main__":
    print(formulas_page(proofs()), end="")
