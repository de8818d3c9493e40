//! One gRPC health check as the bytes of HTTP/2 (RFC 9113) with literal headers (RFC 7541), so
//! that a shell can send it.

/// The connection preface of a client.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 0x1;
const DATA: u8 = 0x0;
const SETTINGS: u8 = 0x4;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The gRPC message `HealthCheckResponse { status: SERVING }` with its five-byte prefix.
pub(super) const SERVING_HEX: &str = "00000000020801";

/// A health check of the whole server.
pub(super) fn health_request(authority: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // Literal header field without indexing, new name; lengths below 127 are one byte.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len().min(126)).unwrap_or(126));
            headers.extend(text.bytes().take(126));
        }
    }
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, HEADERS, END_HEADERS, 1, &headers);
    // An empty message: compression flag and a length of zero.
    frame(&mut bytes, DATA, END_STREAM, 1, &[0; 5]);
    bytes
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    let [_, _, _, _, _, high, middle, low] = (payload.len() as u64).to_be_bytes();
    bytes.extend([high, middle, low, kind, flags, 0, 0, 0, stream]);
    bytes.extend(payload);
}

/// Bytes as printf(1) takes them: three octal digits each, so that nothing needs quoting.
pub(super) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\\\{byte:03o}")).collect()
}
