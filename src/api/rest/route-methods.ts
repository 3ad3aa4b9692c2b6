/** The methods of each route, for the answer 405 to others (RFC 9110, section 15.5.6). Pure. */
export class RouteMethods {
  readonly #routes = new Map<string, { readonly path: RegExp; readonly methods: string[] }>();

  /** @param pattern in Fastify's form: `/a/:id/b` */
  add(pattern: string, methods: readonly string[]): void {
    const known = this.#routes.get(pattern);
    if (known !== undefined) {
      known.methods.push(...methods);
      return;
    }
    const parts = pattern.split('/').map((part) => (part.startsWith(':') ? '[^/]+' : part));
    const path = new RegExp(`^${parts.join('/').replaceAll('.', '\\.')}$`);
    this.#routes.set(pattern, { path, methods: [...methods] });
  }

  /** Methods of the routes that match the path of a URL; empty if no route matches. */
  of(url: string): readonly string[] {
    const [path = ''] = url.split('?', 1);
    // An exact route precedes those with a parameter.
    const exact = this.#routes.get(path);
    if (exact !== undefined) return exact.methods;
    return [...this.#routes.values()].flatMap((route) => (route.path.test(path) ? route.methods : []));
  }
}
