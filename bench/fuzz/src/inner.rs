use jlb_wire::{
    IpHeader, MAX_FLOW_HEADERS, OpenCut, Packet, flow_headers, mend, transport_checksum_fits,
};

/// Bytes as a client's packet.
pub fn inner(bytes: &[u8]) {
    let header = IpHeader::parse(bytes);
    let Ok(packet) = Packet::parse(bytes) else { return };
    header.expect("a packet has a header");
    assert!(
        packet.l4 < packet.payload && packet.payload <= packet.len && packet.len <= bytes.len()
    );
    let fits = transport_checksum_fits(bytes, &packet);
    assert_eq!(
        Packet::parse(&bytes[..packet.len]),
        Ok(packet),
        "what lies behind it does not matter"
    );

    let cut = OpenCut::of(&packet);
    let mut part = bytes[..cut.len].to_vec();
    mend(&mut part, &packet).expect("the headers are there");
    let mended = Packet::parse(&part).expect("a packet of its own");
    assert_eq!((mended.tuple, mended.tcp, mended.len), (packet.tuple, packet.tcp, cut.len));
    assert!(transport_checksum_fits(&part, &mended));
    if !cut.cut && fits {
        assert_eq!(mended.payload, packet.payload);
    }

    let mut headers = [0; MAX_FLOW_HEADERS];
    let len = flow_headers(&packet.tuple, packet.incarnation(), &mut headers);
    let standing_for_it = Packet::parse(&headers[..len]).expect("well-formed");
    assert_eq!(standing_for_it.tuple, packet.tuple);
    assert!(transport_checksum_fits(&headers[..len], &standing_for_it));
}
