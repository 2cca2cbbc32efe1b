//! The lines that make a router point phones here, for the routers that people have.

/// What to enter: the router, and the lines.
pub(super) fn router_lines(lan: ids::Lan) -> Vec<(&'static str, String)> {
    let (own, network, mask) = (lan.address(), lan.network(), lan.netmask());
    let hex: String = own.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    vec![
        (
            "OpenWrt",
            format!(
                "    uci add_list dhcp.lan.dhcp_option='66,{own}'; uci add_list dhcp.lan.dhcp_option='150,{own}'; \
                 uci commit dhcp; service dnsmasq restart"
            ),
        ),
        ("dnsmasq", format!("    dhcp-option-force=66,{own}\n    dhcp-option-force=150,{own}")),
        (
            "pfSense, OPNsense (Services, DHCP Server, additional options)",
            format!("    66 String \"{own}\"    and    150 \"IP address or host\" {own}"),
        ),
        (
            "MikroTik RouterOS",
            format!(
                "    /ip dhcp-server option add name=tftp66 code=66 value=\"s'{own}'\"\n    \
                 /ip dhcp-server option add name=tftp150 code=150 value=0x{hex}\n    \
                 /ip dhcp-server option sets add name=phones options=tftp66,tftp150\n    \
                 /ip dhcp-server network set [find] dhcp-option-set=phones"
            ),
        ),
        (
            "Windows Server (PowerShell)",
            format!(
                "    Add-DhcpServerv4OptionDefinition -Name TFTP150 -OptionId 150 -Type IPv4Address -MultiValued\n    \
                 Set-DhcpServerv4OptionValue -ScopeId {network} -OptionId 66 -Value {own}\n    \
                 Set-DhcpServerv4OptionValue -ScopeId {network} -OptionId 150 -Value {own}"
            ),
        ),
        (
            "Cisco IOS",
            format!(
                "    ip dhcp pool LAN\n     network {network} {mask}\n     option 66 ascii {own}\n     option 150 ip {own}"
            ),
        ),
        (
            "ISC dhcpd",
            format!(
                "    option tftp150 code 150 = array of ip-address;\n    option tftp-server-name \"{own}\";\n    \
                 option tftp150 {own};"
            ),
        ),
        (
            "Kea (option-def and option-data)",
            format!(
                "    \"option-def\": [{{\"name\": \"tftp150\", \"code\": 150, \"type\": \"ipv4-address\", \"array\": true}}],\n    \
                 \"option-data\": [{{\"name\": \"tftp-server-name\", \"data\": \"{own}\", \"always-send\": true}},\n     \
                 {{\"name\": \"tftp150\", \"data\": \"{own}\", \"always-send\": true}}]"
            ),
        ),
    ]
}
