const KEY_PREFIX_CHARACTERS = 6;

/** Removes the host's key from an upstream's text, even if it is escaped or partly masked (`sk-pro***wxyz`). Pure. */
export function withoutKey(text: string, apiKey: string | undefined): string {
  if (apiKey === undefined || apiKey === '') return text;
  const escaped = JSON.stringify(apiKey).slice(1, -1);
  const forms = [apiKey, escaped, apiKey.replaceAll('/', '\\/'), encodeURIComponent(apiKey)];
  let out = text;
  for (const form of forms) out = out.replaceAll(form, '[removed]');
  if (apiKey.length < 2 * KEY_PREFIX_CHARACTERS) return out;
  const prefix = apiKey.slice(0, KEY_PREFIX_CHARACTERS).replace(/[^\w-]/g, '\\$&');
  return out.replace(new RegExp(`${prefix}[\\w*.…•-]*`, 'g'), '[removed]');
}
