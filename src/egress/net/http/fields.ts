/**
 * Header fields that make some servers read another request than its request line says. Pure; decides by name alone.
 */

/**
 * Method (Rack, Rails, Laravel, ASP.NET, Google's APIs), path (IIS, Symfony, Envoy, Next.js), host and prefix (servers
 * behind a proxy), source or target of a copy, move or rename (WebDAV, object stores).
 */
const OVERRIDES = [
  /^(?:x-(?:http-)?method(?:-override)?|(?:http-)?method-override)$/i,
  /^x-(?:original|rewrite|override|proxy|invoke|matched|envoy-original(?:-dst)?)-(?:url|uri|path|host|method)$/i,
  /^x-forwarded-(?:host|method|path|prefix|uri|server)$/i,
  /^x-(?:host|script-name|path-info|request-uri|waf-url|http-host-override)$/i,
  /^(?:forwarded|destination|destination-account|request-uri)$/i,
  // `x-amz-copy-source`, `x-ms-file-rename-source`, `x-upyun-move-source`; Swift: `x-copy-from`, and below its joined
  // objects.
  /^x-(?:[a-z]+-)*(?:copy|move|rename)-(?:source|from)(?:-|$)/i,
  /^x-object-manifest$/i,
] as const;

/** Folds all punctuation, as CGI and WSGI gateways do (RFC 3875 section 4.1.18 names only `-`). */
export function plainFieldName(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9]/g, '-');
}

export function isOverride(name: string): boolean {
  const plain = plainFieldName(name);
  return OVERRIDES.some((pattern) => pattern.test(plain));
}
