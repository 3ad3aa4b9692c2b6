/**
 * Makes an index from a URL of a configuration file. The password becomes a field, so it never is part of a URL. Pure.
 */
import { PackageError } from '../errors.ts';
import type { Index } from '../upstream/index-set.ts';

/** @param where name of the setting, for errors. @throws PackageError `index_invalid` */
export function indexOf(text: string, where: string): Index {
  const url = URL.parse(text);
  if (url === null || !['http:', 'https:'].includes(url.protocol) || url.search !== '') {
    throw new PackageError('index_invalid', `${where} is not an http(s) URL of an index`, {
      remedy: `correct ${where}`,
    });
  }
  const { username, password } = url;
  url.username = '';
  url.password = '';
  url.hash = '';
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  if (username === '' && password === '') return { baseUrl: url.href };
  const pair = `${decoded(username)}:${decoded(password)}`;
  return { baseUrl: url.href, authorization: `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** Like pip and curl, keeps a percent sign that encodes nothing. */
function decoded(text: string): string {
  return text.replace(/(?:%[0-9a-f]{2})+/gi, (all) => Buffer.from(all.replaceAll('%', ''), 'hex').toString('utf8'));
}
