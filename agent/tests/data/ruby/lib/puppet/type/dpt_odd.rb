# frozen_string_literal: true

Puppet::Type.newtype(:dpt_odd) do
  @doc = 'What goes wrong, in every way.'

  newparam(:name, namevar: true)

  newproperty(:state) do
    defaultto 'odd'
  end

  newproperty(:password)
end
