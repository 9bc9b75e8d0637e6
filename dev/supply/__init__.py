"""Bill of materials, licences and known vulnerabilities of the product's packages."""
