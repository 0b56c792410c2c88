"""What is said of images, and of results, in the queries of several modules. Has no query of its own."""

from sqlalchemy import and_, false, or_, select

from db.models import Image, Prompt, Result
from db.states import ImageState

# A pending image has results, which it keeps until it is computed. It also has the size that they were made at, which
# a pending image that was never computed does not have.
HAS_RESULTS = and_(Image.state == ImageState.PENDING, Image.width.is_not(None))

TO_REDO = and_(HAS_RESULTS, Image.adds == false())  # all of its prompts are to be computed again
TO_ADD = and_(Image.state == ImageState.PENDING, Image.adds)  # only its prompts without a result are to be computed
INCOMPLETE = and_(Image.state == ImageState.DONE, Image.adds)  # prompts that were added later have no result
READABLE = or_(Image.state == ImageState.DONE, Image.adds)  # its results are shown

# A result, joined to its image, is of a prompt that the image still has. Results of dropped prompts stay. (For EXISTS
# PostgreSQL would read the prompts of all runs.)
OF_OWN_PROMPT = or_(
    Image.prompts.is_not(None), select(Prompt.every_image).where(Prompt.id == Result.prompt_id).scalar_subquery()
)
