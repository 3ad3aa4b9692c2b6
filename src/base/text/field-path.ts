/** Names of fields in JSON documents: `enable_search`, `messages.content.uuid`; a list stands for its elements. */
const NAME = String.raw`[A-Za-z_$][\w$-]*`;
const PATH = String.raw`${NAME}(?:\.${NAME})*`;

export const FIELD_PATH = new RegExp(`^${PATH}$`);
/** Separated by commas. */
export const FIELD_PATHS = new RegExp(`^${PATH}(?:,${PATH})*$`);
export const FIELD_PATH_CHARACTERS_MAX = 200;

export function isFieldPath(text: string): boolean {
  return text.length <= FIELD_PATH_CHARACTERS_MAX && FIELD_PATH.test(text);
}
