"""How a command line becomes a config: where configs are found, and what is wrong when none comes out. No torch here."""

from distillctl.compose.data import with_data
from distillctl.compose.explain import causes, explain
from distillctl.compose.groups import commands_of, group_names, known_keys, options, weighed_otherwise
from distillctl.compose.guard import check_built, check_typed
from distillctl.compose.kept import invocation
from distillctl.compose.literal import FOLDERS, as_typed, pieces, quoted, unquoted
from distillctl.compose.own import search_words
from distillctl.compose.places import conf_dir, recipes_dir
from distillctl.compose.sharing import shared
from distillctl.compose.sources import ROLES, ModelNames, prepare
from distillctl.compose.suggest import suggestion, unknown_key
from distillctl.compose.typed import typed
from distillctl.compose.words import expanded, typed_words, with_members, written
